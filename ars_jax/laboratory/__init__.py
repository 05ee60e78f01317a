"""The commands of the loss laboratory: from arrays, phantoms or runs to checks, maps and figures."""
