"""Who a peer is and what it may do: tokens, grants, rates and limits of connections."""
