"""
Clients of a gateway.

L{gateway.client.service.GatewayClient} is for programs on Twisted,
L{gateway.client.blocking.BlockingClient} for scripts. Without C{service} and its modules, this
folder needs only the standard library and imports nothing from outside: copied to a machine without
the gateway, under any name, it works.
"""
