"""Embeddings in files: made once, from any source and by any model, and read by whoever scores."""

from centerarc.evaluation.embedding_file.embed_source import EmbedReport, embed_to_file
from centerarc.evaluation.embedding_file.reading import Embeddings, read_embeddings

__all__ = ["EmbedReport", "Embeddings", "embed_to_file", "read_embeddings"]
