"""
Clients of a gateway.

L{gateway.client.service.GatewayClient} for programs on Twisted,
L{gateway.client.blocking.BlockingClient} for scripts. All but C{service} needs the
standard library alone and imports nothing outside of this folder: copied to a machine
without the gateway, under any name, it works as it stands.
"""
