"""Runs as folders of Hugging Face: weights, tokenizer, card, ONNX."""
