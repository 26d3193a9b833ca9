"""Python for a model card: how to use an exported folder, by what it is. 'FOLDER' stands for its name."""

VECTORS = """
import torch
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained('FOLDER')
model = AutoModel.from_pretrained('FOLDER')
inputs = tokenizer(['今天天气很好。', '我们去公园。'], padding=True, truncation=True, return_tensors='pt')
with torch.no_grad():
    vectors = model(**inputs).last_hidden_state  # [texts, tokens, hidden size]
"""
SENTENCE_TRANSFORMER = """
from sentence_transformers import SentenceTransformer

model = SentenceTransformer('FOLDER')
vectors = model.encode(['今天天气很好。', '天气真不错。'])
print(model.similarity(vectors, vectors))
"""
SENTENCES = """
import torch
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained('FOLDER')
model = AutoModel.from_pretrained('FOLDER')
inputs = tokenizer(['今天天气很好。', '天气真不错。'], padding=True, truncation=True, return_tensors='pt')
with torch.no_grad():
    hidden = model(**inputs).last_hidden_state
POOLING
print(torch.cosine_similarity(vectors[0], vectors[1], dim=0))
"""
POOLING = {
    'mean': """real = inputs['attention_mask'].unsqueeze(-1)
vectors = (hidden * real).sum(1) / real.sum(1)""",
    'cls': 'vectors = hidden[:, 0]',
}
FILL = """
from transformers import pipeline

fill = pipeline('fill-mask', model='FOLDER')
for guess in fill('今天天[MASK]很好。'):
    print(guess['token_str'], guess['score'])
"""
WORDS = """
import torch
from input_pipeline.word_tokenizer import WordTokenizer
from transformers import AutoModel

tokenizer = WordTokenizer.load('FOLDER')
model = AutoModel.from_pretrained('FOLDER')
inputs = tokenizer(['今天天气很好。', '我们去公园。'])
with torch.no_grad():
    vectors = model(**{name: torch.from_numpy(array) for name, array in inputs.items()}).last_hidden_state
"""
CLASSIFY_WORDS = """
import torch
from input_pipeline.word_tokenizer import WordTokenizer
from transformers import AutoModelForSequenceClassification

tokenizer = WordTokenizer.load('FOLDER')
model = AutoModelForSequenceClassification.from_pretrained('FOLDER')
inputs = tokenizer(['今天天气很好。'])  # of pairs: tokenizer([text], [other text])
with torch.no_grad():
    logits = model(**{name: torch.from_numpy(array) for name, array in inputs.items()}).logits
print(model.config.id2label[int(logits[0].argmax())])
"""
CLASSIFY = """
from transformers import pipeline

classify = pipeline('text-classification', model='FOLDER', truncation=True)
print(classify('今天天气很好。'))
print(classify({'text': '今天天气很好。', 'text_pair': '今天是晴天。'}))  # where it was trained on pairs
"""
CLASSIFY_MULTI_LABEL = """
from transformers import pipeline

classify = pipeline('text-classification', model='FOLDER', truncation=True)
thresholds = classify.model.config.clower_jax['thresholds']
for answer in classify('今天天气很好。', top_k=None):
    if answer['score'] >= thresholds.get(answer['label'], 0.5):
        print(answer)
"""
SCORE = """
from transformers import pipeline

score = pipeline('text-classification', model='FOLDER', truncation=True)
print(score('今天天气很好。'))
print(score({'text': '今天天气很好。', 'text_pair': '今天是晴天。'}))  # where it was trained on pairs
"""
ANSWER = """
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained('FOLDER')
model = AutoModelForQuestionAnswering.from_pretrained('FOLDER')
question, context = '长江有多长？', '长江全长约六千三百公里，是亚洲第一长河。'
inputs = tokenizer(
    question, context, truncation='only_second', return_offsets_mapping=True, return_tensors='pt'
)
offsets = inputs.pop('offset_mapping')[0].tolist()
with torch.no_grad():
    scores = model(**inputs)
tokens = [i for i, text in enumerate(inputs.sequence_ids()) if text == 1]  # those of the context
spans = [(first, last) for first in tokens for last in tokens if first <= last < first + 30]
first, last = max(spans, key=lambda span: scores.start_logits[0, span[0]] + scores.end_logits[0, span[1]])
print(context[offsets[first][0] : offsets[last][1]])
"""
TAG = """
from transformers import pipeline

find = pipeline('token-classification', model='FOLDER', aggregation_strategy='simple')
text = '今天天气很好。'
for entity in find(text):
    print(entity['entity_group'], text[entity['start'] : entity['end']], entity['score'])
"""
TAG_BIOES = """
from transformers import pipeline

tag = pipeline('token-classification', model='FOLDER')
for token in tag('今天天气很好。'):
    print(token['entity'], token['word'], token['score'])
"""
CHOOSE = """
import torch
from transformers import AutoModelForMultipleChoice, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained('FOLDER')
model = AutoModelForMultipleChoice.from_pretrained('FOLDER')
text, question, choices = '今天天气很好，我们去公园。', '我们去哪里？', ['公园', '学校']
inputs = tokenizer(
    [text] * len(choices),
    [f'{question} {choice}' for choice in choices],
    truncation='only_first',
    padding=True,
    return_tensors='pt',
)
with torch.no_grad():
    logits = model(**{name: value.unsqueeze(0) for name, value in inputs.items()}).logits
print(choices[int(logits.argmax())])
"""
