-- The events that hold, one row each, of the users whose whole history is in scope.
select
    event_key, user_id, item_id, event_type, event_ts, value, session_id, reverses, match_value
from {{ ref('int_event_deliveries') }}
where
    is_last
    and not deleted
    and user_id in (select user_id from {{ ref('int_touched_users') }})
