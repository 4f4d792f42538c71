from .client import COORDINATOR as COORDINATOR
from .client import LabelingClient as LabelingClient
from .labeler import label_batch as label_batch
from .rounds import LabelingConfig as LabelingConfig
from .rounds import LabelWorkers as LabelWorkers
from .rounds import WorkUnit as WorkUnit
from .workers import start_labeling as start_labeling
