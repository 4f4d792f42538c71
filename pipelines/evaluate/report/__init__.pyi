from .summary import Summary as Summary
from .summary import flat as flat
from .summary import headline_lines as headline_lines
from .summary import publish as publish
