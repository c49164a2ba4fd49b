"""The files that reach Tidemark: how each kind is read as rows of text, and which formats can be landed."""
