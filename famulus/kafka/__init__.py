"""How every client of ours gets into the cluster: encrypted, logged in, and told plainly when it is not let in."""
