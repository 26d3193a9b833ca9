"""What a classifier answers, named as transformers' configs name it (`problem_type`)."""

SINGLE_LABEL = 'single_label_classification'  # one of several labels
MULTI_LABEL = 'multi_label_classification'  # any of several labels, or none
REGRESSION = 'regression'  # a number
PROBLEM_TYPES = (SINGLE_LABEL, MULTI_LABEL, REGRESSION)
