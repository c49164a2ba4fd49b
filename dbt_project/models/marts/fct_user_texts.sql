{{ config(
    unique_key=['event_key'],
    partitioned_by=['bucket(16, user_id)'],
    meta={'long': ['text'], 'rewrites': [{'model': 'int_touched_users', 'by': ['user_id']}]}
) }}
-- depends_on: {{ ref('int_touched_users') }}
select
    outcomes.event_key,
    contents.user_id,
    contents.item_id,
    contents.event_type,
    contents.event_ts,
    contents.text,
    outcomes.weight,
    outcomes.excluded_at
from {{ ref('int_event_contents') }} as contents
inner join {{ ref('int_event_outcomes') }} as outcomes
    on
        contents.arrival_hour = outcomes.arrival_hour
        and contents.file = outcomes.file
        and contents.row_number = outcomes.row_number
where outcomes.is_shown and outcomes.is_user_text and contents.text is not null
order by contents.user_id, contents.event_ts, outcomes.event_key
