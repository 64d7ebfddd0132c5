"""Three ways to write the same document: text, Markdown, HTML. Nothing is computed here but units."""
