"""The service as it is packaged, for tools that take an application and no builder.

``serve build serving.application:application`` prints it with every option of Serve.
"""

from serving.app import build

application = build({})
