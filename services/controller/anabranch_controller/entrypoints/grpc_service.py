"""The rpcs of the contract, each one a translation, a call and a translation back.

`GrpcService` is what grpcio looks the rpcs up on. What goes wrong is an exception here; the
edge (`grpc_edge`) maps it once. Method names are the contract's own.
"""

# ruff: noqa: N802

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from anabranch_events.model import GroupConfig, TableConfig
from anabranch_rpc import controller_pb2 as pb
from anabranch_rpc import controller_pb2_grpc

from anabranch_controller.api import Controller, Endpoint, Page
from anabranch_controller.entrypoints import messages
from anabranch_controller.entrypoints.messages import NO_TOKEN, required, stream_of, table_of

FindControllers = Callable[[], Awaitable[Sequence[Endpoint]]]


class NotOffered(Exception):
    """The contract knows this call, and this server has nothing to answer it with."""

    def __init__(self, rpc: str, why: str) -> None:
        super().__init__(f"{rpc}: {why}")
        self.rpc, self.why = rpc, why


class GrpcService(controller_pb2_grpc.ControllerServiceServicer):
    """All 47 rpcs over one Controller. `find_controllers` lists the published addresses."""

    def __init__(self, controller: Controller, find_controllers: FindControllers) -> None:
        self._controller, self._find_controllers = controller, find_controllers

    # --- scopes --------------------------------------------------------------------------

    async def createScope(self, request: pb.ScopeInfo, context: object) -> pb.CreateScopeStatus:
        outcome = await self._controller.create_scope(required(request.scope, "scope"))
        return pb.CreateScopeStatus(status=pb.CreateScopeStatus.Status.Value(outcome))

    async def deleteScope(self, request: pb.ScopeInfo, context: object) -> pb.DeleteScopeStatus:
        outcome = await self._controller.delete_scope(required(request.scope, "scope"))
        return pb.DeleteScopeStatus(status=pb.DeleteScopeStatus.Status.Value(outcome))

    async def deleteScopeRecursive(
        self, request: pb.ScopeInfo, context: object
    ) -> pb.DeleteScopeStatus:
        outcome = await self._controller.delete_scope_recursive(required(request.scope, "scope"))
        return pb.DeleteScopeStatus(status=pb.DeleteScopeStatus.Status.Value(outcome))

    async def checkScopeExists(self, request: pb.ScopeInfo, context: object) -> pb.ExistsResponse:
        exists = await self._controller.scope_exists(required(request.scope, "scope"))
        return pb.ExistsResponse(exists=exists)

    async def listScopes(self, request: pb.ScopesRequest, context: object) -> pb.ScopesResponse:
        page = await self._controller.list_scopes(request.continuationToken.token)
        return pb.ScopesResponse(scopes=page.names, continuationToken=_token(page))

    # --- streams -------------------------------------------------------------------------

    async def createStream(
        self, request: pb.StreamConfig, context: object
    ) -> pb.CreateStreamStatus:
        info = request.streamInfo
        outcome = await self._controller.create_stream(
            required(info.scope, "scope"), info.stream, messages.stream_config(request)
        )
        return pb.CreateStreamStatus(status=pb.CreateStreamStatus.Status.Value(outcome))

    async def updateStream(
        self, request: pb.StreamConfig, context: object
    ) -> pb.UpdateStreamStatus:
        scope, stream = stream_of(request.streamInfo)
        config = messages.stream_config(request)
        outcome = await self._controller.update_stream(scope, stream, config)
        return pb.UpdateStreamStatus(status=pb.UpdateStreamStatus.Status.Value(outcome))

    async def truncateStream(self, request: pb.StreamCut, context: object) -> pb.UpdateStreamStatus:
        scope, stream = stream_of(request.streamInfo)
        outcome = await self._controller.truncate_stream(scope, stream, dict(request.cut))
        return pb.UpdateStreamStatus(status=pb.UpdateStreamStatus.Status.Value(outcome))

    async def sealStream(self, request: pb.StreamInfo, context: object) -> pb.UpdateStreamStatus:
        outcome = await self._controller.seal_stream(*stream_of(request))
        return pb.UpdateStreamStatus(status=pb.UpdateStreamStatus.Status.Value(outcome))

    async def deleteStream(self, request: pb.StreamInfo, context: object) -> pb.DeleteStreamStatus:
        outcome = await self._controller.delete_stream(*stream_of(request))
        return pb.DeleteStreamStatus(status=pb.DeleteStreamStatus.Status.Value(outcome))

    async def checkStreamExists(self, request: pb.StreamInfo, context: object) -> pb.ExistsResponse:
        exists = await self._controller.stream_exists(*stream_of(request))
        return pb.ExistsResponse(exists=exists)

    async def getStreamConfiguration(
        self, request: pb.StreamInfo, context: object
    ) -> pb.StreamConfig:
        scope, stream = stream_of(request)
        config = await self._controller.stream_configuration(scope, stream)
        return messages.stream_configuration(scope, stream, config)

    async def listStreamsInScope(
        self, request: pb.StreamsInScopeRequest, context: object
    ) -> pb.StreamsInScopeResponse:
        scope = required(request.scope.scope, "scope")
        page = await self._controller.list_streams(scope, request.continuationToken.token)
        return _stream_page(scope, page)

    async def listStreamsInScopeForTag(
        self, request: pb.StreamsInScopeWithTagRequest, context: object
    ) -> pb.StreamsInScopeResponse:
        scope, tag = required(request.scope.scope, "scope"), required(request.tag, "tag")
        token = request.continuationToken.token
        page = await self._controller.list_streams_for_tag(scope, tag, token)
        return _stream_page(scope, page)

    # --- segments ------------------------------------------------------------------------

    async def getCurrentSegments(self, request: pb.StreamInfo, context: object) -> pb.SegmentRanges:
        scope, stream = stream_of(request)
        segments = await self._controller.current_segments(scope, stream)
        return messages.segment_ranges(scope, stream, segments)

    async def getEpochSegments(
        self, request: pb.GetEpochSegmentsRequest, context: object
    ) -> pb.SegmentRanges:
        scope, stream = stream_of(request.streamInfo)
        segments = await self._controller.epoch_segments(scope, stream, request.epoch)
        return messages.segment_ranges(scope, stream, segments)

    async def getSegments(
        self, request: pb.GetSegmentsRequest, context: object
    ) -> pb.SegmentsAtTime:
        # The head of the stream, whatever the timestamp says: so does Pravega.
        scope, stream = stream_of(request.streamInfo)
        head = await self._controller.head_segments(scope, stream)
        return messages.segments_at_time(scope, stream, head)

    async def getSegmentsImmediatelyFollowing(
        self, request: pb.SegmentId, context: object
    ) -> pb.SuccessorResponse:
        scope, stream = stream_of(request.streamInfo)
        found = await self._controller.successors(scope, stream, request.segmentId)
        return messages.successors(scope, stream, found)

    async def getSegmentsImmediatlyFollowing(
        self, request: pb.SegmentId, context: object
    ) -> pb.SuccessorResponse:
        """The old spelling, which old clients still call."""
        return await self.getSegmentsImmediatelyFollowing(request, context)

    async def getSegmentsBetween(
        self, request: pb.StreamCutRange, context: object
    ) -> pb.StreamCutRangeResponse:
        scope, stream = stream_of(request.streamInfo)
        start, end = dict(getattr(request, "from")), dict(request.to)
        found = await self._controller.segments_between(scope, stream, start, end)
        return pb.StreamCutRangeResponse(
            segments=[messages.segment_id(scope, stream, number) for number in found],
            delegationToken=NO_TOKEN,
        )

    async def isSegmentValid(
        self, request: pb.SegmentId, context: object
    ) -> pb.SegmentValidityResponse:
        scope, stream = stream_of(request.streamInfo)
        valid = await self._controller.is_segment_valid(scope, stream, request.segmentId)
        return pb.SegmentValidityResponse(response=valid)

    async def isStreamCutValid(
        self, request: pb.StreamCut, context: object
    ) -> pb.StreamCutValidityResponse:
        scope, stream = stream_of(request.streamInfo)
        valid = await self._controller.is_stream_cut_valid(scope, stream, dict(request.cut))
        return pb.StreamCutValidityResponse(response=valid)

    async def getURI(self, request: pb.SegmentId, context: object) -> pb.NodeUri:
        scope, stream = stream_of(request.streamInfo)
        endpoint = await self._controller.get_uri(scope, stream, request.segmentId)
        return pb.NodeUri(endpoint=endpoint.host, port=endpoint.port)

    # --- scaling -------------------------------------------------------------------------

    async def scale(self, request: pb.ScaleRequest, context: object) -> pb.ScaleResponse:
        scope, stream = stream_of(request.streamInfo)
        reply = await self._controller.scale(
            scope,
            stream,
            seal=tuple(request.sealedSegments),
            ranges=messages.key_ranges(request.newKeyRanges),
            requested_ms=request.scaleTimestamp,
        )
        return pb.ScaleResponse(
            status=pb.ScaleResponse.ScaleStreamStatus.Value(reply.outcome),
            segments=[messages.segment_range(scope, stream, one) for one in reply.segments],
            epoch=reply.epoch,
        )

    async def checkScale(
        self, request: pb.ScaleStatusRequest, context: object
    ) -> pb.ScaleStatusResponse:
        scope, stream = stream_of(request.streamInfo)
        status = await self._controller.check_scale(scope, stream, request.epoch)
        return pb.ScaleStatusResponse(status=pb.ScaleStatusResponse.ScaleStatus.Value(status))

    # --- transactions --------------------------------------------------------------------

    async def createTransaction(
        self, request: pb.CreateTxnRequest, context: object
    ) -> pb.CreateTxnResponse:
        scope, stream = stream_of(request.streamInfo)
        created = await self._controller.create_transaction(scope, stream, lease_ms=request.lease)
        return pb.CreateTxnResponse(
            txnId=messages.transaction_message(created.id),
            activeSegments=[messages.segment_range(scope, stream, s) for s in created.segments],
            delegationToken=NO_TOKEN,
        )

    async def commitTransaction(self, request: pb.TxnRequest, context: object) -> pb.TxnStatus:
        scope, stream = stream_of(request.streamInfo)
        outcome = await self._controller.commit_transaction(
            scope,
            stream,
            messages.transaction_id(request.txnId),
            writer_id=request.writerId,
            timestamp=request.timestamp,
        )
        return pb.TxnStatus(status=pb.TxnStatus.Status.Value(outcome))

    async def abortTransaction(self, request: pb.TxnRequest, context: object) -> pb.TxnStatus:
        scope, stream = stream_of(request.streamInfo)
        transaction = messages.transaction_id(request.txnId)
        outcome = await self._controller.abort_transaction(scope, stream, transaction)
        return pb.TxnStatus(status=pb.TxnStatus.Status.Value(outcome))

    async def pingTransaction(
        self, request: pb.PingTxnRequest, context: object
    ) -> pb.PingTxnStatus:
        scope, stream = stream_of(request.streamInfo)
        transaction = messages.transaction_id(request.txnId)
        outcome = await self._controller.ping_transaction(
            scope, stream, transaction, lease_ms=request.lease
        )
        return pb.PingTxnStatus(status=pb.PingTxnStatus.Status.Value(outcome))

    async def checkTransactionState(self, request: pb.TxnRequest, context: object) -> pb.TxnState:
        scope, stream = stream_of(request.streamInfo)
        transaction = messages.transaction_id(request.txnId)
        state = await self._controller.transaction_state(scope, stream, transaction)
        return pb.TxnState(state=pb.TxnState.State.Value(state))

    async def listCompletedTransactions(
        self, request: pb.ListCompletedTxnRequest, context: object
    ) -> pb.ListCompletedTxnResponse:
        scope, stream = stream_of(request.streamInfo)
        completed = await self._controller.list_completed_transactions(scope, stream)
        return messages.completed_transactions(completed)

    # --- reader groups -------------------------------------------------------------------

    async def createReaderGroup(
        self, request: pb.ReaderGroupConfiguration, context: object
    ) -> pb.CreateReaderGroupResponse:
        scope, group = required(request.scope, "scope"), request.readerGroupName
        config = messages.group_config(request)
        reply = await self._controller.create_reader_group(scope, group, config)
        return pb.CreateReaderGroupResponse(
            status=pb.CreateReaderGroupResponse.Status.Value(reply.outcome),
            config=_group_message(scope, group, reply.config),
        )

    async def getReaderGroupConfig(
        self, request: pb.ReaderGroupInfo, context: object
    ) -> pb.ReaderGroupConfigResponse:
        scope, group = messages.group_of(request)
        reply = await self._controller.reader_group(scope, group)
        # Unlike the other replies, this one has its message even when there is nothing in it.
        config = _group_message(scope, group, reply.config) or pb.ReaderGroupConfiguration()
        return pb.ReaderGroupConfigResponse(
            config=config, status=pb.ReaderGroupConfigResponse.Status.Value(reply.outcome)
        )

    async def updateReaderGroup(
        self, request: pb.ReaderGroupConfiguration, context: object
    ) -> pb.UpdateReaderGroupResponse:
        scope = required(request.scope, "scope")
        group = required(request.readerGroupName, "reader group")
        config = messages.group_config(request)
        reply = await self._controller.update_reader_group(scope, group, config)
        return pb.UpdateReaderGroupResponse(
            status=pb.UpdateReaderGroupResponse.Status.Value(reply.outcome),
            generation=reply.generation,
        )

    async def deleteReaderGroup(
        self, request: pb.ReaderGroupInfo, context: object
    ) -> pb.DeleteReaderGroupStatus:
        scope, group = messages.group_of(request)
        outcome = await self._controller.delete_reader_group(scope, group, request.readerGroupId)
        return pb.DeleteReaderGroupStatus(status=pb.DeleteReaderGroupStatus.Status.Value(outcome))

    async def listSubscribers(
        self, request: pb.StreamInfo, context: object
    ) -> pb.SubscribersResponse:
        reply = await self._controller.list_subscribers(*stream_of(request))
        return pb.SubscribersResponse(
            subscribers=reply.subscribers,
            status=pb.SubscribersResponse.Status.Value(reply.outcome),
        )

    async def updateSubscriberStreamCut(
        self, request: pb.SubscriberStreamCut, context: object
    ) -> pb.UpdateSubscriberStatus:
        scope, stream = stream_of(request.streamCut.streamInfo)
        outcome = await self._controller.update_subscriber_stream_cut(
            scope,
            stream,
            subscriber=required(request.subscriber, "subscriber"),
            group_id=messages.uuid_of(request.readerGroupId, "reader group id"),
            generation=request.generation,
            cut=dict(request.streamCut.cut),
        )
        return pb.UpdateSubscriberStatus(status=pb.UpdateSubscriberStatus.Status.Value(outcome))

    # --- key-value tables ----------------------------------------------------------------

    async def createKeyValueTable(
        self, request: pb.KeyValueTableConfig, context: object
    ) -> pb.CreateKeyValueTableStatus:
        scope = required(request.scope, "scope")
        config = messages.table_config(request)
        outcome = await self._controller.create_table(scope, request.kvtName, config)
        return pb.CreateKeyValueTableStatus(
            status=pb.CreateKeyValueTableStatus.Status.Value(outcome)
        )

    async def getCurrentSegmentsKeyValueTable(
        self, request: pb.KeyValueTableInfo, context: object
    ) -> pb.SegmentRanges:
        scope, table = table_of(request)
        segments = await self._controller.table_segments(scope, table)
        return messages.segment_ranges(scope, table, segments)

    async def listKeyValueTablesInScope(
        self, request: pb.KVTablesInScopeRequest, context: object
    ) -> pb.KVTablesInScopeResponse:
        scope = required(request.scope.scope, "scope")
        page = await self._controller.list_tables(scope, request.continuationToken.token)
        return pb.KVTablesInScopeResponse(
            kvtables=[pb.KeyValueTableInfo(scope=scope, kvtName=name) for name in page.names],
            continuationToken=_token(page),
            status=pb.KVTablesInScopeResponse.Status.Value(page.outcome),
        )

    async def getKeyValueTableConfiguration(
        self, request: pb.KeyValueTableInfo, context: object
    ) -> pb.KeyValueTableConfigResponse:
        scope, table = table_of(request)
        reply = await self._controller.table(scope, table)
        return pb.KeyValueTableConfigResponse(
            config=_table_message(scope, table, reply.config),
            status=pb.KeyValueTableConfigResponse.Status.Value(reply.outcome),
        )

    async def deleteKeyValueTable(
        self, request: pb.KeyValueTableInfo, context: object
    ) -> pb.DeleteKVTableStatus:
        outcome = await self._controller.delete_table(*table_of(request))
        return pb.DeleteKVTableStatus(status=pb.DeleteKVTableStatus.Status.Value(outcome))

    # --- watermarks ----------------------------------------------------------------------

    async def noteTimestampFromWriter(
        self, request: pb.TimestampFromWriter, context: object
    ) -> pb.TimestampResponse:
        scope, stream = stream_of(request.position.streamInfo)
        outcome = await self._controller.note_timestamp_from_writer(
            scope,
            stream,
            writer=request.writer,
            timestamp=request.timestamp,
            position=dict(request.position.cut),
        )
        return pb.TimestampResponse(result=pb.TimestampResponse.Status.Value(outcome))

    async def removeWriter(
        self, request: pb.RemoveWriterRequest, context: object
    ) -> pb.RemoveWriterResponse:
        scope, stream = stream_of(request.stream)
        outcome = await self._controller.remove_writer(scope, stream, request.writer)
        return pb.RemoveWriterResponse(result=pb.RemoveWriterResponse.Status.Value(outcome))

    # --- the cluster ---------------------------------------------------------------------

    async def getControllerServerList(
        self, request: pb.ServerRequest, context: object
    ) -> pb.ServerResponse:
        endpoints = await self._find_controllers()
        return pb.ServerResponse(
            nodeURI=[pb.NodeUri(endpoint=host, port=port) for host, port in endpoints]
        )

    async def getDelegationToken(
        self, request: pb.StreamInfo, context: object
    ) -> pb.DelegationToken:
        """Java asks even without authorisation, and keeps the empty string for good."""
        return pb.DelegationToken(delegationToken=NO_TOKEN)

    async def getControllerToBucketMapping(
        self, request: pb.ControllerToBucketMappingRequest, context: object
    ) -> pb.ControllerToBucketMappingResponse:
        raise NotOffered("getControllerToBucketMapping", "controllers here share no buckets out")


def _token(page: Page) -> pb.ContinuationToken | None:
    # Clients ask until an empty page comes, and drop a page that has no token (1.10).
    if page.outcome == "SCOPE_NOT_FOUND":
        return None
    return pb.ContinuationToken(token=page.token)


def _stream_page(scope: str, page: Page) -> pb.StreamsInScopeResponse:
    return pb.StreamsInScopeResponse(
        streams=[messages.stream_info(scope, name) for name in page.names],
        continuationToken=_token(page),
        status=pb.StreamsInScopeResponse.Status.Value(page.outcome),
    )


def _group_message(
    scope: str, group: str, config: GroupConfig | None
) -> pb.ReaderGroupConfiguration | None:
    return None if config is None else messages.group_configuration(scope, group, config)


def _table_message(
    scope: str, table: str, config: TableConfig | None
) -> pb.KeyValueTableConfig | None:
    return None if config is None else messages.table_configuration(scope, table, config)
