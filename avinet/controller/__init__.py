"""Floor 4: a node: the sessions of its service engines, its doors, and the services behind them."""
