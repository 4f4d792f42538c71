from .labeling import label_batch as label_batch
from .pool import LabelEntry as LabelEntry
from .pool import LabelPool as LabelPool
from .pool import start_pool as start_pool
from .scorer import load_scorer as load_scorer
