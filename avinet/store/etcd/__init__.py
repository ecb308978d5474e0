"""The store on etcd 3.4 or newer, through its JSON gateway: the same meaning as SQLite, on machines that may fail."""
