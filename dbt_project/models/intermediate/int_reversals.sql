-- The n-th valid reversal cancels the n-th event it can reverse, in the order of events; a reversal with nothing left
-- to reverse is not valid. So what holds as of T only depends on events before T.
with reversed_types as (
    select
        reverses as event_type,
        bool_or(match_value) as match_value
    from {{ ref('event_types') }}
    where reverses <> 'nothing'
    group by reverses
),

steps as (
    select
        current_events.event_key,
        current_events.user_id,
        current_events.item_id,
        current_events.event_ts,
        reversed_types.event_type,
        current_events.reverses is not null as is_reversal,
        case when reversed_types.match_value then abs(coalesce(current_events.value, 1)) end as matched_value
    from {{ ref('int_current_events') }} as current_events
    inner join reversed_types
        on coalesce(current_events.reverses, current_events.event_type) = reversed_types.event_type
    where current_events.item_id is not null
),

balances as (
    select
        *,
        sum(case when is_reversal then -1 else 1 end) over in_order as balance
    from steps
    window in_order as (
        partition by user_id, item_id, event_type, matched_value
        order by event_ts, is_reversal, event_key
        rows unbounded preceding
    )
),

lowest as (
    select
        *,
        coalesce(min(balance) over (
            partition by user_id, item_id, event_type, matched_value
            order by event_ts, is_reversal, event_key
            rows between unbounded preceding and 1 preceding
        ), 0) as lowest_before
    from balances
),

valid as (
    select
        *,
        row_number() over (
            partition by user_id, item_id, event_type, matched_value, is_reversal
            order by event_ts, event_key
        ) as place
    from lowest
    where not is_reversal or balance >= least(lowest_before, 0)
)

select
    originals.event_key,
    reversals.event_ts as reversed_at
from valid as originals
inner join valid as reversals
    on
        originals.user_id = reversals.user_id
        and originals.item_id = reversals.item_id
        and originals.event_type = reversals.event_type
        and originals.matched_value is not distinct from reversals.matched_value
        and originals.place = reversals.place
where not originals.is_reversal and reversals.is_reversal
