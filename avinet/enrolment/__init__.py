"""Floor 3: how a service engine gets in, once: claims, challenge, the decision, the directory of keys, and the client.

On the node, requests of the 8443 door and of operators flow in, and records of the store come out; on the service
engine, an image and a claim flow in, and a receipt comes out.
"""
