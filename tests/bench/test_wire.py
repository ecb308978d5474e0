"""What the kernel says a connection has carried."""

import socket

from twisted.trial.unittest import SynchronousTestCase

from bench.wire import connections, listening
from demo.machine import free_ports


class WireTests(SynchronousTestCase):
    def setUp(self):
        (port,) = free_ports(1)  # one that no connection of others is given
        self.server = socket.create_server(("127.0.0.1", port))
        self.addCleanup(self.server.close)
        self.port = self.server.getsockname()[1]

    def dial(self):
        client = socket.create_connection(("127.0.0.1", self.port))
        self.addCleanup(client.close)
        accepted, _ = self.server.accept()
        self.addCleanup(accepted.close)
        host, port = client.getsockname()
        return client, accepted, f"{host}:{port}"

    def test_a_port_is_listening_until_it_is_closed(self):
        self.assertTrue(listening(self.port))
        self.server.close()
        self.assertFalse(listening(self.port))

    def test_the_payload_of_both_directions_is_counted_and_a_header_for_each_segment(self):
        client, accepted, name = self.dial()
        before = connections(self.port)[name]
        client.sendall(b"x" * 300)
        accepted.recv(1000)
        accepted.sendall(b"y" * 200)
        client.recv(1000)
        client.sendall(b"z")
        accepted.recv(1)
        after = connections(self.port)[name]
        self.assertEqual(after.payload_bytes - before.payload_bytes, 501)
        self.assertGreaterEqual(after.segments - before.segments, 3)
        self.assertIn(after.header_bytes, (40, 52))
        self.assertEqual(after.bytes, after.payload_bytes + after.segments * after.header_bytes)

    def test_connections_to_other_ports_are_left_out(self):
        _, _, name = self.dial()
        self.assertEqual(set(connections(self.port)), {name})
