"""One target for each reader."""

from tests.fuzz.target import Target
from tests.fuzz.targets import (
    answer,
    content_coding,
    error_body,
    http1_answer,
    request_body,
    request_head,
    sse,
    stream,
    usage,
)

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        request_head.TARGET,
        request_body.TARGET,
        content_coding.TARGET,
        sse.TARGET,
        stream.TARGET,
        answer.TARGET,
        usage.TARGET,
        http1_answer.TARGET,
        error_body.TARGET,
    )
}
