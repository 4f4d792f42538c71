from .chart import SERIES as SERIES
from .chart import draw_chart as draw_chart
from .page import Picture as Picture
from .page import Row as Row
from .page import amount as amount
from .page import plural as plural
from .page import render as render
from .page import short as short
