"""The head: one pass of a batch over the class prototypes, however many and wherever they are."""
