"""The head against its peers: time and memory of a loss and of a whole step, many classes.

``python -m benchmarks.head`` runs it from the root of the repository; docs/results/head.md keeps
the tables. Modules: ``cases`` (what is measured), ``problem``, ``implementations`` and ``peers``
(the work), ``verify`` (that it is the same work), ``child`` and ``memory`` (one measurement, in a
process of its own), ``largest`` (the most classes that fit), ``results``, ``goals``, ``tables``,
``machine`` and ``page`` (what is made of them). The runner itself never imports torch. Alone stand
``precision`` (errors), ``kernels`` (products on a CPU), ``density`` and ``sparse`` (what leaving
out small negatives would save).
"""
