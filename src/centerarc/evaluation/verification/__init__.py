"""One person or two? Accuracy, curves and thresholds of scored pairs, compared and broken down."""
