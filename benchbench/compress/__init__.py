"""Channel pruning: coupled channel groups, their importance, and the network without some of them."""
