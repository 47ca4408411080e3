"""Console: commands of the operator to a running gateway, over a Unix socket."""
