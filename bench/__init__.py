"""The benchmarks, one file a question; see `bin/bench` and `bench.measure`."""
