"""Pure functions of arrays, with derivatives of their own where memory or speed asks for them."""
