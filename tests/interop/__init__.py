"""Real peers × every algorithm that is offered × changes of keys, each under 64 MiB both ways through one channel."""
