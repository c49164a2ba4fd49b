-- Every row of the batches, and every earlier row of the touched users, with its one outcome.
with judged as (
    select
        deliveries.* exclude (session_id),
        deliveries.session_id as given_session_id,
        sessions.session_id,
        bots.verdict_at,
        case
            when bots.user_id is not null then 'rejected'
            when not deliveries.is_last then 'duplicate'
            when deliveries.deleted or deliveries.reverses is not null or reversals.event_key is not null
                then 'cancelled'
            when deliveries.item_id is null then 'text_only'
            else 'interaction'
        end as outcome,
        case
            when bots.user_id is not null then 'bot'
            when not deliveries.is_last then null
            when deliveries.deleted then 'withdrawn'
            when deliveries.reverses is not null then 'reversal'
            when reversals.event_key is not null then 'reversed'
        end as reason,
        -- What a mart may show: the event itself, whether or not it counts to the end.
        deliveries.is_last and not deliveries.deleted and deliveries.reverses is null as is_shown,
        least(bots.verdict_at, reversals.reversed_at) as excluded_at
    from {{ ref('int_event_deliveries') }} as deliveries
    left join {{ ref('int_bots') }} as bots on deliveries.user_id = bots.user_id
    left join {{ ref('int_reversals') }} as reversals on deliveries.event_key = reversals.event_key
    left join {{ ref('int_sessions') }} as sessions on deliveries.event_key = sessions.event_key
    where
        deliveries.user_id is null
        or deliveries.user_id in (select user_id from {{ ref('int_touched_users') }})
)

select
    'events' as landed_table,
    arrival_hour, source, file, row_number, event_key, user_id, item_id, event_type, event_ts, value, weight,
    session_id, given_session_id, attributes, deleted, outcome, reason, is_shown,
    coalesce(user_text, false) as is_user_text,
    case when is_shown then excluded_at end as excluded_at
from judged
union all by name
select
    'events' as landed_table,
    arrival_hour, source, file, row_number, event_key, user_id, item_id, event_type, event_ts, value, weight,
    session_id as given_session_id,
    attributes, deleted,
    'rejected' as outcome,
    reason,
    false as is_shown,
    false as is_user_text
from {{ ref('int_events_judged') }}
where reason is not null
