from .actors import ActorWorkers as ActorWorkers
from .dispatch import Crew as Crew
from .dispatch import CrewError as CrewError
from .dispatch import UnitFailed as UnitFailed
from .work import Work as Work
