"""Floor 5: the twistd options and `makeService` of both services: the one place where everything is composed."""
