{{ config(
    unique_key=['event_key'],
    partitioned_by=['bucket(16, user_id)'],
    meta={'rewrites': [{'model': 'int_touched_users', 'by': ['user_id']}]}
) }}
-- depends_on: {{ ref('int_touched_users') }}
select
    event_key,
    user_id,
    item_id,
    event_type,
    event_ts,
    text,
    weight,
    excluded_at
from {{ ref('int_event_outcomes') }}
where is_shown and is_user_text and text is not null
order by user_id, event_ts, event_key
