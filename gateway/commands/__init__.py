"""What people do around the daemon: the C{gateway} command's parts."""
