"""`python -m avinet.cli`."""

from avinet.cli.main import main

main()
