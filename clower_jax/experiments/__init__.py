"""The paper's tables and figures, and what frozen encoders know."""
