"""How tight each person's embeddings are and how far apart the people."""
