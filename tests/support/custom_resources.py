"""What we use of the resources that operators define, as closed JSON Schemas.

The operators' own definitions (CRDs) come with no package. These were written from them, and compared with their
public sources (Go types, CRDs and what reads them) - KEDA 2.17, RabbitMQ Cluster Operator 2 and Messaging Topology
Operator 1, MongoDB operator 1 (Community), Prometheus operator (v1). They allow only the fields that stand in deploy/:
a misspelt or a new one fails, and has to be looked up before it is added.
"""

from typing import Any

Schema = dict[str, Any]
STRING: Schema = {"type": "string", "minLength": 1}
COUNT: Schema = {"type": "integer", "minimum": 0}
QUANTITY: Schema = {"type": "string", "pattern": r"^\d+(\.\d+)?(m|k|Ki|Mi|Gi|Ti)?$"}
ANY: Schema = {"type": "object"}
LABELS: Schema = {"type": "object", "additionalProperties": STRING, "minProperties": 1}


def closed(required: str, **properties: Schema) -> Schema:
    """An object with these fields and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


def listed(items: Schema) -> Schema:
    """A list that is not empty."""
    return {"type": "array", "items": items, "minItems": 1}


def choice(*values: str) -> Schema:
    """One of some words."""
    return {"enum": list(values)}


NAMED = closed("name", name=STRING)
RESOURCES = closed(
    "requests limits", requests={"additionalProperties": QUANTITY}, limits={"additionalProperties": QUANTITY}
)
POLICIES = listed(closed("type value periodSeconds", type=choice("Percent", "Pods"), value=COUNT, periodSeconds=COUNT))
CONTAINER = closed("name", name=STRING, securityContext=ANY, resources=RESOURCES)
POD_SPEC = closed(
    "containers",  # RabbitMQ's is a whole PodSpec, which asks for them
    securityContext=closed("", runAsNonRoot={"const": True}, runAsUser=COUNT, fsGroup=COUNT, seccompProfile=ANY),
    containers=listed(CONTAINER),
    initContainers=listed(CONTAINER),
)
TEMPLATE = closed("spec", spec=POD_SPEC)
POD_AFFINITY_TERM = closed("topologyKey", topologyKey=STRING, labelSelector=closed("", matchLabels=LABELS))

METRICS_API = closed(
    "url format valueLocation targetValue activationTargetValue",
    url={"type": "string", "pattern": "^http://"},
    format=choice("prometheus"),
    valueLocation={"type": "string", "pattern": r'^[a-z_]+\{[a-z]+="\w+"\}$'},
    targetValue={"type": "string", "pattern": r"^\d+$"},
    activationTargetValue={"type": "string", "pattern": r"^\d+$"},
)
TRIGGER = {
    "oneOf": [
        closed(
            "type metricType metadata",
            type=choice("metrics-api"),
            metricType=choice("AverageValue"),
            metadata=METRICS_API,
        ),
        closed(
            "type metricType metadata",
            type=choice("cpu"),
            metricType=choice("Utilization"),
            metadata=closed("value", value={"type": "string", "pattern": r"^\d+$"}),
        ),
    ]
}
SCALED_OBJECT = closed(
    "scaleTargetRef triggers",
    scaleTargetRef=NAMED,
    minReplicaCount=COUNT,
    maxReplicaCount=COUNT,
    pollingInterval=COUNT,
    cooldownPeriod=COUNT,
    fallback=closed(
        "failureThreshold replicas",
        failureThreshold=COUNT,
        replicas=COUNT,
        behavior=choice("static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"),
    ),
    advanced=closed(
        "",
        horizontalPodAutoscalerConfig=closed(
            "",
            behavior=closed(
                "",
                scaleUp=closed("policies", policies=POLICIES),
                scaleDown=closed("policies", policies=POLICIES, stabilizationWindowSeconds=COUNT),
            ),
        ),
    ),
    triggers=listed(TRIGGER),
)
RABBITMQ_CLUSTER = closed(
    "",
    image=STRING,
    replicas=COUNT,
    persistence=closed("", storage=QUANTITY, storageClassName=STRING),
    resources=RESOURCES,
    rabbitmq=closed("", additionalConfig={**STRING, "maxLength": 2000}),
    affinity=closed(
        "",
        podAntiAffinity=closed(
            "",
            preferredDuringSchedulingIgnoredDuringExecution=listed(
                closed(
                    "weight podAffinityTerm",
                    weight={"type": "integer", "minimum": 1, "maximum": 100},
                    podAffinityTerm=POD_AFFINITY_TERM,
                )
            ),
        ),
    ),
    override=closed("", statefulSet=closed("spec", spec=closed("", template=TEMPLATE))),
)
CLUSTER = {"rabbitmqClusterReference": NAMED}
MONGODB = closed(
    "security type users",
    type=choice("ReplicaSet"),
    members={"type": "integer", "minimum": 0, "maximum": 50},
    version=STRING,
    security=closed("authentication", authentication=closed("modes", modes=listed(choice("SCRAM")))),
    users=listed(
        closed(
            "name roles",
            name=STRING,
            db=STRING,
            passwordSecretRef=NAMED,
            scramCredentialsSecretName={"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"},
            connectionStringSecretName=STRING,
            roles=listed(closed("db name", db=STRING, name=STRING)),
        )
    ),
    additionalMongodConfig=ANY,
    statefulSet=closed("spec", spec=closed("", template=TEMPLATE, volumeClaimTemplates=listed(ANY))),
)

RELABELING = closed("targetLabel", sourceLabels=listed(STRING), targetLabel=STRING, replacement=STRING)
POD_MONITOR = closed(
    "selector podMetricsEndpoints",
    selector=closed(
        "",
        matchLabels=LABELS,
        matchExpressions=listed(
            closed("key operator values", key=STRING, operator=choice("In"), values=listed(STRING))
        ),
    ),
    podMetricsEndpoints=listed(
        closed(
            "port",
            port=STRING,
            path=STRING,
            params={"type": "object", "additionalProperties": listed(STRING)},
            interval={"type": "string", "pattern": r"^\d+s$"},
            relabelings=listed(RELABELING),
        )
    ),
)
DURATION: Schema = {"type": "string", "pattern": r"^\d+(s|m|h)$"}
PROMETHEUS_RULE = closed(
    "groups",
    groups=listed(
        closed(
            "name rules",
            name=STRING,
            rules=listed(
                {
                    "oneOf": [
                        closed("record expr", record=STRING, expr=STRING),
                        closed(
                            "alert expr",
                            alert=STRING,
                            expr=STRING,
                            labels=LABELS,
                            annotations=LABELS,
                            **{"for": DURATION},
                        ),
                    ]
                }
            ),
        )
    ),
)

SPECS = {
    ("keda.sh/v1alpha1", "ScaledObject"): SCALED_OBJECT,
    ("rabbitmq.com/v1beta1", "RabbitmqCluster"): RABBITMQ_CLUSTER,
    ("rabbitmq.com/v1beta1", "Vhost"): closed("name rabbitmqClusterReference", name=STRING, **CLUSTER),
    ("rabbitmq.com/v1beta1", "User"): closed("rabbitmqClusterReference", **CLUSTER),
    ("rabbitmq.com/v1beta1", "Permission"): closed(
        "permissions rabbitmqClusterReference vhost userReference",
        vhost=STRING,
        userReference=NAMED,
        permissions=closed("configure write read", configure=STRING, write=STRING, read=STRING),
        **CLUSTER,
    ),
    ("rabbitmq.com/v1beta1", "Policy"): closed(
        "definition name pattern rabbitmqClusterReference",
        name=STRING,
        pattern=STRING,
        priority=COUNT,
        definition=ANY,
        applyTo=choice("queues", "classic_queues", "quorum_queues", "exchanges", "all"),
        vhost=STRING,
        **CLUSTER,
    ),
    ("mongodbcommunity.mongodb.com/v1", "MongoDBCommunity"): MONGODB,
    ("monitoring.coreos.com/v1", "PodMonitor"): POD_MONITOR,
    ("monitoring.coreos.com/v1", "PrometheusRule"): PROMETHEUS_RULE,
}
