-- The session that came with an event, else what a user does without a longer pause.
with gaps as (
    select
        event_key,
        user_id,
        event_ts,
        session_id,
        coalesce(
            event_ts - lag(event_ts) over (partition by user_id, session_id is null order by event_ts, event_key)
            > interval {{ var('session_gap_minutes') }} minutes,
            true
        ) as starts
    from {{ ref('int_current_events') }}
),

started as (
    select
        *,
        max(case when starts then event_ts end) over (
            partition by user_id, session_id is null
            order by event_ts, event_key
            rows unbounded preceding
        ) as session_start
    from gaps
)

select
    event_key,
    coalesce(session_id, 's:' || md5(cast(json_array(user_id, session_start) as varchar))) as session_id
from started
