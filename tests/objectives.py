"""The names of the paper's two regional objectives."""

RS = "baseline+region_specific"
ARS = "baseline+adaptive_region_specific"
