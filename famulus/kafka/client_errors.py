"""Meaning of client and system errors that end a worker: cause, cure and exit code.

An error without an entry here is a bug of the engine.
"""

import errno
import ssl
from collections.abc import Mapping

from aiokafka import errors as kafka

from famulus.errors import (
    AccessError,
    ConfigError,
    InvariantError,
    OperatingError,
    UnavailableError,
)

AWAY = "start again when it is there"
BUSY = "the brokers are changing something or have too much to do; start again"
BROKER = "see the broker's log, and start again when it is well"
AGAIN = "start again: what was in hand is read again"
ACL = "`faust -A app acls` prints the rights that are needed"
LOGIN = "check the login in Kafka.SecurityProtocol, SaslMechanism and what belongs to it"
VERSIONS = (
    "this client and the brokers have no version of a request in common: use brokers from 2.1 on"
)
CLOCKS = (
    "the broker refuses the time of what this worker writes: the clock of this machine is "
    "wrong, or the broker's is (a "
    "topic takes what is an hour ahead at most, message.timestamp.after.max.ms): set both by NTP"
)
SESSION = (
    "the brokers do not allow that session timeout: set Kafka.ConsumerConfig.SessionTimeoutMs "
    "between their "
    "group.min.session.timeout.ms and group.max.session.timeout.ms"
)

Meaning = tuple[type[OperatingError], str]
MEANINGS: Mapping[type[BaseException], Meaning] = {
    # Kafka is unavailable or not ready: a later start helps.
    kafka.NoBrokersAvailable: (UnavailableError, f"no Kafka broker answers: {AWAY}"),
    kafka.NodeNotReadyError: (UnavailableError, f"a Kafka broker does not answer: {AWAY}"),
    kafka.KafkaUnavailableError: (UnavailableError, f"no Kafka broker answers: {AWAY}"),
    kafka.KafkaConnectionError: (
        UnavailableError,
        f"the connection to a Kafka broker broke: {AWAY}",
    ),
    kafka.KafkaTimeoutError: (UnavailableError, f"Kafka did not answer in time: {AWAY}"),
    kafka.KafkaProtocolError: (UnavailableError, f"a Kafka broker answered something else: {AWAY}"),
    kafka.Cancelled: (UnavailableError, f"a request to Kafka was given up: {AWAY}"),
    kafka.TooManyInFlightRequests: (UnavailableError, f"Kafka does not answer fast enough: {BUSY}"),
    kafka.StaleMetadata: (UnavailableError, f"the brokers are not those that they were: {BUSY}"),
    kafka.MetadataEmptyBrokerList: (UnavailableError, f"the cluster names no broker: {BROKER}"),
    kafka.QuotaViolationError: (
        UnavailableError,
        f"a quota of the cluster is used up: raise it, or {AWAY}",
    ),
    kafka.UnknownError: (UnavailableError, f"a Kafka broker has failed: {BROKER}"),
    kafka.LeaderNotAvailableError: (UnavailableError, f"a partition has no leader: {BUSY}"),
    kafka.NotLeaderForPartitionError: (
        UnavailableError,
        f"a partition has another leader by now: {BUSY}",
    ),
    kafka.RequestTimedOutError: (UnavailableError, f"Kafka did not answer in time: {BUSY}"),
    kafka.BrokerNotAvailableError: (UnavailableError, f"a Kafka broker is away: {AWAY}"),
    kafka.ReplicaNotAvailableError: (UnavailableError, f"a copy of a partition is away: {AWAY}"),
    kafka.StaleControllerEpochError: (
        UnavailableError,
        f"the cluster has another controller by now: {BUSY}",
    ),
    kafka.StaleLeaderEpochCodeError: (
        UnavailableError,
        f"the brokers lost their connection: {BUSY}",
    ),
    kafka.GroupLoadInProgressError: (
        UnavailableError,
        f"the group's coordinator is starting: {BUSY}",
    ),
    kafka.GroupCoordinatorNotAvailableError: (
        UnavailableError,
        f"the group's coordinator is away: {AWAY}",
    ),
    kafka.NotCoordinatorForGroupError: (
        UnavailableError,
        f"the group has another coordinator by now: {BUSY}",
    ),
    kafka.NotEnoughReplicasError: (
        UnavailableError,
        f"too few copies of a partition are in sync (min.insync.replicas): {AWAY}",
    ),
    kafka.NotEnoughReplicasAfterAppendError: (
        UnavailableError,
        f"too few copies of a partition are in sync (min.insync.replicas): {AWAY}",
    ),
    kafka.NotControllerError: (
        UnavailableError,
        f"the cluster has another controller by now: {BUSY}",
    ),
    kafka.KafkaStorageError: (UnavailableError, f"a broker cannot use its disk: {BROKER}"),
    kafka.LogDirNotFound: (UnavailableError, f"a broker does not find its data: {BROKER}"),
    kafka.ReassignmentInProgress: (UnavailableError, f"partitions are being moved: {BUSY}"),
    kafka.OperationNotAttempted: (UnavailableError, f"the broker did not get to it: {BUSY}"),
    kafka.FetchSessionIdNotFound: (UnavailableError, f"the broker was started anew: {BUSY}"),
    kafka.InvalidFetchSessionEpoch: (UnavailableError, f"the broker was started anew: {BUSY}"),
    # The login fails, or a right is missing.
    kafka.AuthenticationFailedError: (AccessError, f"a Kafka broker does not let us in: {LOGIN}"),
    kafka.SaslAuthenticationFailed: (AccessError, f"a Kafka broker does not let us in: {LOGIN}"),
    kafka.IllegalSaslStateError: (AccessError, f"a Kafka broker wants another login: {LOGIN}"),
    kafka.DelegationTokenNotFound: (AccessError, f"the brokers do not know our token: {LOGIN}"),
    kafka.DelegationTokenExpired: (AccessError, f"our token has expired: {LOGIN}"),
    kafka.DelegationTokenAuthorizationFailed: (
        AccessError,
        f"our token does not allow it: {LOGIN}",
    ),
    kafka.DelegationTokenRequestNotAllowed: (AccessError, f"our token does not allow it: {LOGIN}"),
    kafka.DelegationTokenOwnerMismatch: (
        AccessError,
        f"our token belongs to somebody else: {LOGIN}",
    ),
    kafka.TopicAuthorizationFailedError: (
        AccessError,
        f"the cluster does not let us use a topic: {ACL}",
    ),
    kafka.GroupAuthorizationFailedError: (
        AccessError,
        f"the cluster does not let us use the group: {ACL}",
    ),
    kafka.ClusterAuthorizationFailedError: (
        AccessError,
        f"the cluster does not let us do something: {ACL}",
    ),
    kafka.TransactionalIdAuthorizationFailed: (
        AccessError,
        f"the cluster does not let us do something: {ACL}",
    ),
    # An operator has to change a setting, a topic or the machine.
    kafka.UnsupportedSaslMechanismError: (
        ConfigError,
        f"the brokers do not take our way of login: {LOGIN}",
    ),
    kafka.AuthenticationMethodNotSupported: (
        ConfigError,
        f"the brokers do not take our way of login: {LOGIN}",
    ),
    kafka.SecurityDisabled: (ConfigError, f"the brokers have no security switched on: {LOGIN}"),
    kafka.DelegationTokenAuthDisabled: (
        ConfigError,
        f"the brokers take no delegation tokens: {LOGIN}",
    ),
    kafka.ListenerNotFound: (
        ConfigError,
        "the brokers have no such listener: check their advertised.listeners",
    ),
    kafka.UnrecognizedBrokerVersion: (ConfigError, VERSIONS),
    kafka.IncompatibleBrokerVersion: (ConfigError, VERSIONS),
    kafka.UnsupportedVersionError: (ConfigError, VERSIONS),
    kafka.UnsupportedForMessageFormatError: (
        ConfigError,
        "a topic keeps records in the format of a very old Kafka: raise its message.format.version",
    ),
    kafka.UnsupportedCodecError: (
        ConfigError,
        "records are compressed in a way that is not installed: install aiokafka[all]",
    ),
    kafka.KafkaConfigurationError: (
        ConfigError,
        "Kafka is set up in a way that cannot work: check the Kafka settings",
    ),
    kafka.UnknownTopicOrPartitionError: (
        ConfigError,
        "a topic, or a partition of it, is not there any more: `faust -A app doctor` says which",
    ),
    kafka.InvalidTopicError: (
        ConfigError,
        "the brokers do not take the name of a topic: check Kafka.TopicPrefix",
    ),
    kafka.TopicAlreadyExistsError: (
        ConfigError,
        "a topic is there already: `faust -A app doctor` looks at all",
    ),
    kafka.InvalidPartitionsError: (
        ConfigError,
        "the brokers do not take that number of partitions: check the topics",
    ),
    kafka.InvalidReplicationFactorError: (
        ConfigError,
        "the cluster has too few brokers for Kafka.ReplicationFactor: lower it",
    ),
    kafka.InvalidReplicationAssignmentError: (
        ConfigError,
        "the brokers cannot place a topic's copies: check the topics",
    ),
    kafka.InvalidConfigurationError: (
        ConfigError,
        "the brokers do not take a topic's settings: `faust -A app doctor`",
    ),
    kafka.PolicyViolationError: (
        ConfigError,
        "a policy of the cluster forbids it: ask who runs the cluster",
    ),
    kafka.MessageSizeTooLargeError: (
        ConfigError,
        "something is larger than its topic takes: raise the topic's max.message.bytes",
    ),
    kafka.RecordListTooLargeError: (
        ConfigError,
        "a batch is larger than a broker's segments: raise the topic's segment.bytes",
    ),
    kafka.RecordTooLargeError: (
        ConfigError,
        "a record is larger than a fetch: raise Kafka.ConsumerConfig.MaxPartitionFetchBytes",
    ),
    kafka.InvalidTimestampError: (
        ConfigError,
        CLOCKS,
    ),
    kafka.InconsistentGroupProtocolError: (
        ConfigError,
        (
            "the group is used by another kind of client: give this app a "
            "Kafka.ConsumerConfig.GroupId of its own"
        ),
    ),
    kafka.InvalidGroupIdError: (
        ConfigError,
        "the brokers do not take the group's name: check Kafka.ConsumerConfig.GroupId",
    ),
    kafka.InvalidSessionTimeoutError: (
        ConfigError,
        SESSION,
    ),
    # To continue could break a guarantee. A new process reads the truth from the log.
    kafka.CommitFailedError: (InvariantError, f"the group gave our partitions to others: {AGAIN}"),
    kafka.IllegalGenerationError: (InvariantError, f"the group has gone on without us: {AGAIN}"),
    kafka.UnknownMemberIdError: (InvariantError, f"the group does not know us any more: {AGAIN}"),
    kafka.RebalanceInProgressError: (
        InvariantError,
        f"the group gives partitions to others: {AGAIN}",
    ),
    kafka.MemberIdRequired: (InvariantError, f"the group does not know us yet: {AGAIN}"),
    kafka.OffsetOutOfRangeError: (
        InvariantError,
        f"a log does not have what we want to read any more: {AGAIN}",
    ),
    kafka.NoOffsetForPartitionError: (
        InvariantError,
        f"a log does not have what we want to read any more: {AGAIN}",
    ),
    kafka.CorruptRecordException: (
        InvariantError,
        (
            "what Kafka sent was damaged on the way, or on its disk: start again, or look at the "
            "broker's disk"
        ),
    ),
    kafka.ProducerFenced: (InvariantError, f"another process writes in our name: {AGAIN}"),
    kafka.InvalidProducerEpoch: (InvariantError, f"another process writes in our name: {AGAIN}"),
    kafka.OutOfOrderSequenceNumber: (InvariantError, f"a log lost what we wrote: {AGAIN}"),
    kafka.DuplicateSequenceNumber: (
        InvariantError,
        f"nobody can tell whether something was written: {AGAIN}",
    ),
    kafka.UnknownProducerId: (InvariantError, f"a log has forgotten who wrote it: {AGAIN}"),
    kafka.InvalidProducerIdMapping: (InvariantError, f"a log has forgotten who wrote it: {AGAIN}"),
    MemoryError: (
        InvariantError,
        (
            "the process may have no more memory: give it more, or have it hold less "
            "(Worker.QueueBytes, State.CacheMib)"
        ),
    ),
    # Errors of the operating system.
    ssl.SSLError: (UnavailableError, f"the encrypted connection to a broker broke: {AWAY}"),
    TimeoutError: (UnavailableError, f"Kafka did not answer in time: {AWAY}"),
    ConnectionError: (UnavailableError, f"the connection to a Kafka broker broke: {AWAY}"),
}
FILES = "the process may open no more files: raise the hard limit of open files (`ulimit -Hn`)"
ROOM = "the disk is full: make room, and start again"
SYSTEM: Mapping[int, Meaning] = {
    errno.EMFILE: (ConfigError, FILES),
    errno.ENFILE: (ConfigError, "the system may open no more files: raise fs.file-max"),
    errno.EACCES: (
        ConfigError,
        "the system does not let us use a file: give Worker.DataDir to the user of the worker",
    ),
    errno.EPERM: (
        ConfigError,
        "the system does not let us use a file: give Worker.DataDir to the user of the worker",
    ),
    errno.EROFS: (ConfigError, "the disk is read-only: check it, or set Worker.DataDir"),
    errno.ENOSPC: (InvariantError, ROOM),
    errno.EDQUOT: (InvariantError, ROOM),
    errno.EIO: (InvariantError, "the disk does not work: check it, and start again"),
    errno.ENOMEM: (InvariantError, "the system has no more memory: give it more, and start again"),
    errno.EHOSTUNREACH: (UnavailableError, f"a Kafka broker cannot be reached: {AWAY}"),
    errno.ENETUNREACH: (UnavailableError, f"a Kafka broker cannot be reached: {AWAY}"),
}
OURS = frozenset(
    {  # raised only because of wrong code
        kafka.KafkaError,
        kafka.BrokerResponseError,
        kafka.NoError,
        kafka.IllegalStateError,
        kafka.IllegalArgumentError,
        kafka.IllegalOperation,
        kafka.ConsumerStoppedError,
        kafka.ProducerClosed,
        kafka.InvalidFetchRequestError,
        kafka.InvalidRequiredAcksError,
        kafka.InvalidRequestError,
        kafka.InvalidCommitOffsetSizeError,
        kafka.OffsetMetadataTooLargeError,
        kafka.InvalidTxnState,
        kafka.InvalidTransactionTimeout,
        kafka.ConcurrentTransactions,
        kafka.TransactionCoordinatorFenced,
        kafka.InvalidPrincipalType,
        kafka.NonEmptyGroup,
        kafka.GroupIdNotFound,
    }
)


def fault_of(error: BaseException) -> OperatingError | None:
    """Return the OperatingError for *error*, which has text and exit code.

    None means a bug of the engine.
    """
    if isinstance(error, OperatingError):
        return error
    found = _meaning_of(error)
    if found is None:
        return None
    kind, words = found
    return kind(f"{words} ({_name_of(error)})")


def _meaning_of(error: BaseException) -> Meaning | None:
    if isinstance(error, OSError) and (found := SYSTEM.get(error.errno or 0)) is not None:
        return found
    for kind in type(error).__mro__:
        if kind in OURS:
            return None
        if kind in MEANINGS:
            return MEANINGS[kind]
    return None


def _name_of(error: BaseException) -> str:
    """Return the type of *error*, with details for errors of Kafka, which quote no event."""
    if isinstance(error, kafka.KafkaError):
        return str(error)
    if isinstance(error, OSError) and error.errno:
        return f"{type(error).__name__}: {errno.errorcode.get(error.errno, error.errno)}"
    return type(error).__name__
