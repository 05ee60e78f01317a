"""Research tools on the losses: closed-form gradients, checks against other libraries, maps of what happens where."""
