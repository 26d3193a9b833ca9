# %% [markdown]
# # Fine-tune a classifier and export it
#
# Which of four topics is a paragraph about? The paragraphs are those of the text that comes with the
# project, the encoder is the small one that comes with it, too. With your own file of texts and labels, the
# next cell is not needed.

# %%
import os
import sys
from pathlib import Path

# In a clone of the project, from whatever folder of it: configs/ is read from there.
root = next(path for path in (Path.cwd(), *Path.cwd().parents) if (path / 'run.py').is_file())
os.chdir(root)
sys.path.insert(0, str(root))

import clower_jax
from clower_jax import convert
from configs import classify

workdir = Path(os.environ.get('WORKDIR', 'runs/topics'))
workdir.mkdir(parents=True, exist_ok=True)
rows = [
    (line.strip(), path.stem)
    for path in sorted(Path('input_pipeline/embedded').glob('*.txt'))
    for line in path.read_text('utf-8').splitlines()
    if line.strip()
]
for name, part in (('train', rows[::2]), ('test', rows[1::2])):
    text = ''.join(f'{text}\t{label}\n' for text, label in part)
    (workdir / f'{name}.tsv').write_text('text\tlabel\n' + text, 'utf-8')

# %% [markdown]
# A tenth of the training file is kept to choose the best parameters by. Three seeds say how far a figure
# can be trusted.

# %%
config = classify.get_config()
config.init_from = 'docs/results/clower-mini'  # a workdir, a folder, or a name on the Hugging Face hub
config.data.train = str(workdir / 'train.tsv')
config.data.test = str(workdir / 'test.tsv')
config.batch_size = 16
config.optim.learning_rate = 5e-4  # high, for the encoder is small
config.total_steps = int(os.environ.get('STEPS', 0))  # 0: by epochs
config.num_epochs = 10.0
config.seeds = int(os.environ.get('SEEDS', 3))
results = clower_jax.finetune(config, workdir / 'run')
accuracy, spread = results['mean']['test']['best']['acc'], results['std']['test']['best']['acc']
print('accuracy on the test file:', accuracy, '±', spread)

# %% [markdown]
# ## Use it
#
# `confusion.png` in the folder shows which topics are taken for which.

# %%
model = workdir / 'run' / ('seed-0' if config.seeds > 1 else '')
texts = ['月球绕着地球转动，也绕着自己的轴转动。', '手机的屏幕越来越大，电池也越来越耐用。']
for text, prediction in zip(texts, clower_jax.predict(model, texts)):
    print(prediction, text)

# %% [markdown]
# ## Export it
#
# The folder is a `BertForSequenceClassification` that transformers loads with no code of this project's,
# with a model card that says what it is and how to call it.

# %%
folder = workdir / 'topics-classifier'
convert.main(['export', '--checkpoint', str(model), '--output', str(folder), '--overwrite'])
print(sorted(path.name for path in folder.iterdir()))
