"""Views of texts: changed words, hidden tokens, spans of documents, and what such changes do to negations."""
