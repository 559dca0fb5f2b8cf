"""Names that the work and the tables share. Imports nothing."""

# What is scored -> whether in single precision, and the share of genuine pairs.
CURVE_CASES = {
    "float64, half of them genuine": (False, 0.5),
    "float32, half of them genuine": (True, 0.5),
    "float64, one in a hundred genuine": (False, 0.01),
    "float32, one in a hundred genuine": (True, 0.01),
}
# As IJB-C has them.
TEMPLATE_PAIRS = 15_658_489
