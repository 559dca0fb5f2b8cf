"""The head: one pass of a batch over the class prototypes, however many and wherever they are."""

from centerarc.losses.head.class_pass import ClassPass, class_pass, negative_logsumexp

__all__ = ["ClassPass", "class_pass", "negative_logsumexp"]
