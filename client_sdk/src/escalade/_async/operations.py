"""What the client asks of the service itself: its state, its feed, its use, and its models."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime

import grpc

from escalade._async.channels import AsyncChannels
from escalade._options import Options
from escalade._status import error_from_rpc
from escalade.v1 import operations_service_pb2, operations_service_pb2_grpc
from escalade.v1.escalation_pb2 import ModelRef


class AsyncOperations:
    """The half of the client that shows the service, and steers it."""

    _channels: AsyncChannels
    _options: Options

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        """The headers of a call, but those of its trace."""
        return (*self._channels.dial.metadata, *self._options.metadata.items())

    async def status(
        self, *, timeout: float | None = None
    ) -> operations_service_pb2.GetStatusResponse:
        """Show every layer, model, quota, cap, cooldown and waiter as of now.

        Raises:
            EscaladeError: The service does not say.
        """
        channel, over = self._channels.take(self._channels.operations)
        try:
            return await operations_service_pb2_grpc.OperationsServiceStub(channel).GetStatus(
                operations_service_pb2.GetStatusRequest(),
                timeout=self._options.timeout_of(timeout),
                metadata=self._metadata(),
            )
        except grpc.RpcError as error:
            raise error_from_rpc(error, request_id="") from error
        finally:
            over()

    async def watch(
        self,
        cursor: str = "",
        *,
        kinds: Sequence[operations_service_pb2.FeedKind.ValueType] = (),
        layers: Sequence[str] = (),
        timeout: float | None = None,
    ) -> AsyncIterator[operations_service_pb2.WatchEventsResponse]:
        """Stream the event feed: what changed, for whom, and why. Needs an operator.

        Each response holds entries, or none as a sign of life; go on after a break with the cursor
        of the last one.

        Args:
            cursor: Begin after its entry; by default now.
            kinds: The kinds wanted; by default all.
            layers: The layers wanted; by default all.
            timeout: Seconds; by default for ever.

        Raises:
            CursorExpired: What follows the cursor is not kept any more.
            EscaladeError: The feed broke off, or the service does not say.
        """
        channel, over = self._channels.take(self._channels.operations)
        service = operations_service_pb2_grpc.OperationsServiceStub(channel)
        request = operations_service_pb2.WatchEventsRequest(
            cursor=cursor, kinds=kinds, layers=layers
        )
        call = service.WatchEvents(request, timeout=timeout, metadata=self._metadata())
        try:
            async for response in call:
                yield response
        except grpc.RpcError as error:
            raise error_from_rpc(error, request_id="") from error
        finally:
            call.cancel()
            over()

    async def usage_report(
        self,
        *,
        day: str = "",
        month: str = "",
        agent: str = "",
        timeout: float | None = None,
    ) -> operations_service_pb2.GetUsageReportResponse:
        """Report the use of a day or a month; by default of the current month.

        Args:
            day: A day as YYYY-MM-DD, in the zone of the reports.
            month: A month as YYYY-MM; not beside a day.
            agent: Whose use; by default all that the caller may see.
            timeout: Seconds; by default the client's own.

        Raises:
            ValueError: A day and a month.
            EscaladeError: There is no such period, or the service does not say.
        """
        if day and month:
            raise ValueError("give a day or a month")
        request = operations_service_pb2.GetUsageReportRequest(agent=agent)
        if day:
            request.day = day
        elif month:
            request.month = month
        channel, over = self._channels.take(self._channels.operations)
        try:
            return await operations_service_pb2_grpc.OperationsServiceStub(channel).GetUsageReport(
                request, timeout=self._options.timeout_of(timeout), metadata=self._metadata()
            )
        except grpc.RpcError as error:
            raise error_from_rpc(error, request_id="") from error
        finally:
            over()

    async def trace(
        self, request_id: str = "", *, trace_id: str = "", timeout: float | None = None
    ) -> operations_service_pb2.GetTraceResponse:
        """Show how one task went, span by span; an agent sees its own tasks.

        Args:
            request_id: The request; of several tasks with one id, the newest.
            trace_id: The trace, instead.
            timeout: Seconds; by default the client's own.

        Raises:
            ValueError: Both ids, or none.
            TraceUnknown: No such trace is kept.
            EscaladeError: The service does not say.
        """
        if bool(request_id) == bool(trace_id):
            raise ValueError("give a request id or a trace id")
        request = operations_service_pb2.GetTraceRequest(request_id=request_id)
        if trace_id:
            request = operations_service_pb2.GetTraceRequest(trace_id=trace_id)
        channel, over = self._channels.take(self._channels.operations)
        try:
            return await operations_service_pb2_grpc.OperationsServiceStub(channel).GetTrace(
                request, timeout=self._options.timeout_of(timeout), metadata=self._metadata()
            )
        except grpc.RpcError as error:
            raise error_from_rpc(error, request_id=request_id) from error
        finally:
            over()

    async def set_model_state(
        self,
        action: operations_service_pb2.ModelAction.ValueType,
        target: ModelRef,
        *,
        until: datetime | None = None,
        note: str = "",
        timeout: float | None = None,
    ) -> operations_service_pb2.SetModelStateResponse:
        """Set models aside, take them in again, or end their cooldowns. Needs an operator.

        Args:
            action: What to do.
            target: The models; what is empty in it matches all.
            until: When a model that is set aside comes back, aware of its zone; by default when
                it is enabled.
            note: Why, for people.
            timeout: Seconds; by default the client's own.

        Raises:
            ModelUnknown: The strategy has no such model.
            EscaladeError: The service does not do it.
        """
        request = operations_service_pb2.SetModelStateRequest(
            action=action, target=target, note=note
        )
        if until is not None:
            request.until.FromDatetime(until)
        channel, over = self._channels.take(self._channels.operations)
        try:
            return await operations_service_pb2_grpc.OperationsServiceStub(channel).SetModelState(
                request, timeout=self._options.timeout_of(timeout), metadata=self._metadata()
            )
        except grpc.RpcError as error:
            raise error_from_rpc(error, request_id="") from error
        finally:
            over()

    async def reload_strategy(
        self, *, timeout: float | None = None
    ) -> operations_service_pb2.ReloadStrategyResponse:
        """Have the service put its strategy file as it is now in force. Needs an operator.

        Raises:
            EscaladeError: The service does not do it. A file that is refused is no error.
        """
        channel, over = self._channels.take(self._channels.operations)
        try:
            return await operations_service_pb2_grpc.OperationsServiceStub(channel).ReloadStrategy(
                operations_service_pb2.ReloadStrategyRequest(),
                timeout=self._options.timeout_of(timeout),
                metadata=self._metadata(),
            )
        except grpc.RpcError as error:
            raise error_from_rpc(error, request_id="") from error
        finally:
            over()

    async def check_strategy(
        self, yaml: str | None = None, *, timeout: float | None = None
    ) -> operations_service_pb2.CheckStrategyResponse:
        """Have the service check a strategy, by default its own file, and change nothing.

        Raises:
            EscaladeError: The service does not say. A strategy with errors is none.
        """
        channel, over = self._channels.take(self._channels.operations)
        try:
            return await operations_service_pb2_grpc.OperationsServiceStub(channel).CheckStrategy(
                operations_service_pb2.CheckStrategyRequest(yaml=yaml),
                timeout=self._options.timeout_of(timeout),
                metadata=self._metadata(),
            )
        except grpc.RpcError as error:
            raise error_from_rpc(error, request_id="") from error
        finally:
            over()
