"""From files of text, in any of their formats, to documents and what is dropped of them."""
