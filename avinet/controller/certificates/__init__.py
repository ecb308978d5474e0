"""Certificates of virtual services on a node: checked, sealed, kept in the store, brought to whom they are for."""
