"""Labelled texts and questions: the public data sets, and files of a user."""
