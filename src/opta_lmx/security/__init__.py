"""What stands between the network and everything else: addresses, names, limits of intake."""
