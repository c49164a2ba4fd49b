-- The last delivery of an event holds, and may say that it is withdrawn.
select
    in_scope.*,
    nullif(event_types.reverses, 'nothing') as reverses,
    event_types.user_text,
    event_types.match_value,
    row_number() over (
        partition by in_scope.event_key
        order by in_scope.arrival_hour desc, in_scope.file desc, in_scope.row_number desc
    ) = 1 as is_last
from {{ ref('int_events_in_scope') }} as in_scope
left join {{ ref('event_types') }} as event_types on in_scope.event_type = event_types.event_type
